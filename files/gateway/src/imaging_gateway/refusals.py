"""Why a request gets no answer: what the caller of the platform is told in nginx's words."""

from __future__ import annotations


class RefusedError(Exception):
    """The request is not one that the platform knows: the caller gets the one 404."""

    told = ""
    """What a caller who may ask is told instead, in nginx's words."""


class NoClinicError(RefusedError):
    """An upload that could be for several clinics, or for none: the caller is told to name one."""

    told = "clinic"


class RepeatedFrameError(RefusedError):
    """A frame is named twice in one request, which PS3.18 does not know; the answer could be larger than any image."""

    told = "frames"


class UndisplayableError(RefusedError):
    """Frames of an image that the importer found not to be displayable; `told` ends in the code why."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.told = f"display-{code}"


class AcceptError(RefusedError):
    """The client takes nothing that there is on this route, or its Accept cannot be read."""

    told = "accept"
