"""The gateway decides every DICOMweb and REST request: who asks, for which clinics, and whose study it is.

The way of a request: app (routes) → tokens (who) → requests (a strict reading of the URI) → allowlist (what is open)
→ owners (whose study) → access_log. Study search is answered here, by search; all else by Orthanc behind the proxy.
"""
