"""A throw-away authority for processes of one machine: its certificates are known nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from gossip_caffe.clock import Clock
from gossip_caffe.security.authority import CA_CERT, Wanted, issue, make_authority
from gossip_caffe.security.files import files_in
from gossip_caffe.security.security import Security

_AUTHORITY_LIFE = timedelta(days=365)


class TemporaryAuthority:
    """An authority in ``folder``, and one certificate for all of ``names``, which lasts ``life_s`` seconds."""

    def __init__(self, folder: Path, names: Sequence[str], life_s: float) -> None:
        self._authority = folder / "authority"
        self._issued = folder / "issued"
        self._wanted = Wanted(tuple(names))
        self._life_s = life_s
        if not (self._authority / CA_CERT).exists():
            make_authority(self._authority, "temporary", _AUTHORITY_LIFE)
        self.renew()

    @property
    def security(self) -> Security:
        """The identity of the processes."""
        return Security(files_in(self._issued, "--tls-dir"))

    def renew(self) -> None:
        """Make a new certificate in the place of the old one."""
        issue(self._authority, self._wanted, self._issued, timedelta(seconds=self._life_s))

    async def keep_new(self, clock: Clock, renewed: Callable[[], None] = lambda: None) -> NoReturn:
        """Renew the certificate whenever a third of its life is over, for ever."""
        while True:
            await clock.sleep(self._life_s / 3)
            self.renew()
            renewed()
