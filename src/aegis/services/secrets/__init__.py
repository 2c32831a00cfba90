"""Secrets: values a person gives to Aegis by name, for brokers to present and no face to show.

Guaranteed: every change is authorised with the acting principal first; no method but `reveal_for_broker` and `use` returns a value,
and those are handed to the broker and to the way out by the wiring and to nothing else. A secret that was granted to somebody serves
nobody else, one that is bound to hosts goes nowhere else. What is stored is known to `redactor`, and found where something is put on
record. Not done here: encryption (`vaults`).
"""

from aegis.services.secrets.grants import Binding, Grant
from aegis.services.secrets.redaction import Redactor
from aegis.services.secrets.service import MAX_VALUE, Holder, SecretDetails, Secrets, check_name

__all__ = ["MAX_VALUE", "Binding", "Grant", "Holder", "Redactor", "SecretDetails", "Secrets", "check_name"]
