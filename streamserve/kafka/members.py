"""Which worker slots are in the pipeline's group right now, by the client ids of its members.

A slot's consumer calls itself `<pipeline>/<slot>` (`clients.client_id`), under both group protocols. Where the
configuration gives a `client.id` of its own, or a worker is of an older release, its member has no slot's name and is
only counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streamserve.config.settings import PipelineSettings
from streamserve.errors import BrokerUnavailable
from streamserve.kafka.admin import quiet_admin
from streamserve.kafka.clients import client_id
from streamserve.kafka.coordinator import insist
from streamserve.kafka.errors import first_error, source_error
from streamserve.kafka.reading import ANSWER_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Who is in the group.

    Attributes:
        slots: names of slots.
        unnamed: members beside those that do not say which slot they are.
    """

    slots: frozenset[str]
    unnamed: int = 0

    def __len__(self) -> int:
        return len(self.slots) + self.unnamed


class Group:
    """The pipeline's consumer group, asked again and again.

    Args:
        settings: the pipeline.
    """

    def __init__(self, settings: PipelineSettings) -> None:
        self._name = settings.pipeline
        self._prefix = client_id(settings.pipeline, "")
        self._admin = quiet_admin(settings)

    def members(self) -> Members:
        """Who is in it. A member that was killed stays until its session times out.

        Raises:
            BrokerUnavailable: nobody answers.
            SourceError: the group may not be described.
        """
        try:
            found = insist(self._described)
        except KafkaException as exception:
            error = first_error(exception)
            if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return Members(slots=frozenset())
            raise source_error(error, f"asking who is in the group {self._name}") from exception
        except TimeoutError as timeout:
            raise BrokerUnavailable(f"no broker said who is in the group {self._name}", retryable=True) from timeout
        names = [member.client_id for member in found.members]
        slots = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        return Members(slots=frozenset(slots), unnamed=len(names) - len(slots))

    def _described(self) -> Any:
        asked = self._admin.describe_consumer_groups([self._name], request_timeout=ANSWER_TIMEOUT_S)
        return asked[self._name].result(2 * ANSWER_TIMEOUT_S)
