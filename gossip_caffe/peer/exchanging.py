"""When this peer starts an exchange, and with whom; the exchange itself is the gossip room's.

At most one exchange of its own is in flight. The solver steps on meanwhile: nothing here is ever waited for by it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.exchange import Exchanger, Outcome, OutcomeKind
from gossip_caffe.gossip.partners import Suspects, choose
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.observe.events import Event, EventLog

LOOK_EVERY_S = 0.005
