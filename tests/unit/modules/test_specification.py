"""The specification of the three modules, against the fake Keycloak."""

from specification import *  # noqa: F403
