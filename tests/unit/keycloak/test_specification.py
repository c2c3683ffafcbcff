"""The specification of the modules, against the real Keycloak."""

from specification import *  # noqa: F403
