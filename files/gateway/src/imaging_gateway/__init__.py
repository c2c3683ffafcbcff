"""The gateway decides every DICOMweb and REST request: who asks, for which clinics, and whose study it is.

Its modules, in the order in which a request meets them:

__main__: the command, which starts the service or prints the access log
config: reads the settings and the secrets, and refuses what it does not know
strict_toml: the reader of settings, the same in all services
app: the routes, and how each error is answered
grammar: what a clinic's id and a UID look like
request_line: a strict reading of the method and the URI
refusals: why a request gets no answer
tokens: who asks, by an access token of Keycloak
passes: what gateways show when they ask themselves
allowlist: what is open to which role
accept: which form of an answer a client takes
owners: whose study it is, remembered and kept true
registry: the functions of the registry's database
access_log: who opened which study
search: the study list and the searches beside it (QIDO-RS)
audit: the access log for those who may read it
warm: fills nginx's cache before somebody asks
metrics: what Prometheus reads
printable: makes strangers' text harmless, the same in all services
systemd: tells systemd that the service is ready and alive
"""
