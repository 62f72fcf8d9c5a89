"""The pure core: stages of the pipeline, without I/O, threads or clients."""
