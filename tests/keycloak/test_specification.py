"""The specification of the three modules, against the real Keycloak."""

from specification import *  # noqa: F403
