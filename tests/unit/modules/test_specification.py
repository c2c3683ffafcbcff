"""The specification of the modules, against the fake Keycloak."""

from specification import *  # noqa: F403
