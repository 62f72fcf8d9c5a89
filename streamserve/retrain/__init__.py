"""The retraining loop: a request starts a command, whose model is pushed, checked and rolled out.

    alerts topic ──request──> command ──model──> repository ──version──> check ──> rollout topic

`loop` is the whole of it, `command` runs the program, `requests` reads the topic. `streamserve retrain` is the entry.
"""
