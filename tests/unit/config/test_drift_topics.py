from streamserve.config.drift_topics import DriftTopics, drift_topics
from streamserve.config.settings import PipelineSettings


def settings(**drift) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "pipeline": "p",
            "kafka": {},
            "input": {"topics": ["events"]},
            "features": [{"name": "x"}],
            "model": {"name": "m"},
            "output": {"topic": "predictions"},
            "dead_letter": {"topic": "dead"},
            "drift": drift,
        }
    )


def test_topics_are_named_after_the_pipeline():
    assert drift_topics(settings(labels={})) == DriftTopics(
        samples="p.samples", reports="p.drift.reports", alerts="p.drift.alerts", labels="p.labels"
    )


def test_names_that_are_given_win():
    given = drift_topics(
        settings(samples_topic="s", reports_topic="r", alerts_topic="a", labels={"topic": "l", "task": "regression"})
    )
    assert given == DriftTopics(samples="s", reports="r", alerts="a", labels="l")


def test_without_labels_no_topic_of_labels():
    assert drift_topics(settings()).labels is None
