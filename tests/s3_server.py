"""A real S3-compatible server as a process: moto's, on loopback, in memory."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from types import TracebackType

import httpx

from tests.conftest import wait_for

BUCKET = "snapshots"


class S3Server:
    """Stopped, continued, killed and started again at the same address. A killed one forgets everything."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def options(self, **more: str) -> dict[str, str]:
        """What `open_store` needs to reach it."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
            "allow_http": "true",
            **more,
        }

    def start(self) -> None:
        """Start it with an empty bucket. Blocks for some seconds."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._answers, "moto answers")
        credential = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
        httpx.put(f"{self.endpoint}/{BUCKET}", headers={"Authorization": credential}).raise_for_status()

    def pause(self) -> None:
        """From now on it takes connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """From now on connections are refused."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "moto ended: is moto[s3,server] installed?"
        try:
            return httpx.get(f"{self.endpoint}/moto-api/", timeout=1).is_success
        except httpx.HTTPError:
            return False
