"""The gateway decides every DICOMweb and REST request: by the caller, the caller's clinics and the study's owner.

Its modules, in the order in which a request meets them:

__main__: the command, which starts the service or prints the access log
config: reads the settings and the secrets, and refuses what it does not know
strict_toml: the reader of settings, the same in all services
app: the routes, and how each error is answered
grammar: what a clinic's id and a UID look like
request_line: a strict reading of the method and the URI
refusals: the reasons why a request gets no answer
tokens: the caller, by an access token of Keycloak
passes: the passes that gateways sign for themselves
allowlist: the requests that are open to each role
accept: the form of an answer that a client accepts
owners: the owner of a study, remembered and kept true
registry: the functions of the registry's database
access_log: the record of who opened which study
search: the study list and the other searches (QIDO-RS)
audit: the access log for those who may read it
warm: fills nginx's cache before somebody asks
metrics: the metrics that Prometheus reads
printable: makes strangers' text harmless, the same in all services
systemd: tells systemd that the service is ready and alive
"""
