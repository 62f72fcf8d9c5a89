"""The Redis client of the cache: made from settings, and its errors put into words.

Owns addresses, credentials, TLS, timeouts, and the map from redis-py's errors to `CacheError` with a remedy.
Knows nothing of keys and entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from streamserve.errors import CacheError, ConfigError, Problem

if TYPE_CHECKING:
    from streamserve.config.settings import CacheSettings

_DENIED_IN_SCRIPT = "The user executing the script can't"
_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")


def is_cluster(url: str) -> bool:
    """Whether the address is that of a cluster."""
    return urlsplit(url).scheme.endswith("+cluster")


def connect(settings: CacheSettings) -> Any:
    """A client for these settings; a single server's connects at its first command, a cluster's at once.

    Raises: ConfigError for an address that cannot be one, redis-py's errors for a cluster that is away.
    """
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    address, user = _address(settings)
    timeout_s = settings.timeout_ms / 1000
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    if settings.password_file is not None:
        options["credential_provider"] = _credentials(user, Path(settings.password_file))
    elif user is not None:
        options["username"] = user
    try:
        if is_cluster(settings.url):
            return RedisCluster.from_url(address, **options, retry=Retry(NoBackoff(), 1))
        return Redis.from_url(address, **options, retry=Retry(NoBackoff(), 0))
    except ValueError as error:
        raise ConfigError([Problem(path="cache.url", message=str(error))]) from error


def _address(settings: CacheSettings) -> tuple[str, str | None]:
    """The address as redis-py wants it, and the user name that must be given beside it."""
    parts = urlsplit(settings.url)
    if parts.scheme not in _SCHEMES:
        raise ConfigError([Problem(path="cache.url", message=f"the scheme is none of {', '.join(_SCHEMES)}")])
    parts = parts._replace(scheme=parts.scheme.removesuffix("+cluster"))
    if settings.password_file is None:
        return urlunsplit(parts), settings.username
    user = settings.username or (unquote(parts.username) if parts.username else None)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), user


def _credentials(user: str | None, password_file: Path) -> Any:
    """Reads the password file at every new connection, so that a rotated password needs no restart."""
    from redis.credentials import CredentialProvider
    from redis.exceptions import AuthenticationError

    class FileCredentials(CredentialProvider):
        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            try:
                password = password_file.read_text().rstrip("\r\n")
            except OSError as error:
                raise AuthenticationError(f"cannot read {password_file}: {error.strerror}") from error
            return (password,) if user is None else (user, password)

    return FileCredentials()


def server_may_differ(error: Exception) -> bool:
    """Whether another or an emptied server may be there once it is over (a slow one stays the same)."""
    from redis import exceptions as known

    if isinstance(error, known.TimeoutError):
        return False
    return isinstance(error, (known.ConnectionError, known.ClusterDownError, known.RedisClusterException, OSError))


def mapped(error: Exception, settings: CacheSettings, what: str) -> CacheError:
    """The error in our words.

    Args:
        error: what redis-py or the socket raised.
        settings: for the address; credentials are left out.
        what: the verb of what failed.
    """
    from redis import exceptions

    parts = urlsplit(settings.url)
    where = f"the cache at {parts.netloc.rpartition('@')[2] or parts.path}"
    text = str(error) or type(error).__name__
    retryable = True
    if isinstance(error, exceptions.TimeoutError):
        remedy = f"no answer in {settings.timeout_ms:g} ms; is it overloaded, or cache.timeout_ms too short?"
    elif isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        remedy, retryable = f"it refuses us ({text}); check cache.username and cache.password_file", False
    elif isinstance(error, exceptions.NoPermissionError) or text.startswith(_DENIED_IN_SCRIPT):
        retryable = False
        remedy = f"the user lacks a right ({text}); it needs +evalsha +script|load +hget +hset +pexpire +ping"
    elif isinstance(error, exceptions.ReadOnlyError):
        remedy = "it is a read-only replica; point cache.url at the primary"
    elif isinstance(error, exceptions.OutOfMemoryError):
        remedy = "it is out of memory; raise maxmemory, set an eviction policy, or lower cache.ttl_s"
    elif isinstance(error, (exceptions.ConnectionError, exceptions.RedisClusterException, OSError)):
        remedy = f"no connection ({text}); is it running, and is cache.url right?"
    else:
        remedy = f"it answered: {text}"
        retryable = not isinstance(error, exceptions.ResponseError) or isinstance(error, exceptions.ClusterDownError)
    return CacheError(f"cannot {what} {where}: {remedy}", retryable=retryable)
