"""Configuration: what projects and people declare, checked, layered, explained, and trusted before it takes effect.

Layers, the strongest first: the daemon's environment (`AEGIS_...`), the project (`.aegis.yaml` and `.aegis/`), the user
(`config.yaml` and `config/` in the home), the defaults. What a single request says (a flag of a command) is stronger than all of them
and is applied by whoever handles the request. `keys` is the table of everything that can be said.

An edit (`Config.edit`) changes one entry and keeps everything else as it was written; what would not be valid is not written.

Guarantees: bad input is refused whole, with `file:line:column` and the nearest valid name; reading a hostile file costs bounded time
and memory and runs nothing; what is hashed for trust is what is read; an untrusted project has no effect. It watches nothing: files
are looked at when they are asked for, and parsed when they changed. It does not know secrets, and does not start anything.
"""

from __future__ import annotations

from aegis.services.config.model import (
    AgentDefinition,
    Edited,
    Explanation,
    LayerValue,
    MountDefinition,
    NotifyDefinition,
    ProjectConfig,
    ProviderDefinition,
    SecretUse,
    Shown,
    TrustState,
)
from aegis.services.config.service import Config

__all__ = [
    "AgentDefinition",
    "Config",
    "Edited",
    "Explanation",
    "LayerValue",
    "MountDefinition",
    "NotifyDefinition",
    "ProjectConfig",
    "ProviderDefinition",
    "SecretUse",
    "Shown",
    "TrustState",
]
