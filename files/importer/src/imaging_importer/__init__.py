"""The one door in: carries delivered DICOM folders into Orthanc.

The way of a delivery, down the modules: `inbox` finds a folder and waits until it is stable, `spool` claims it by
rename, `journal` remembers it, `delivery` carries it (`instance` reads, `stamp` marks, `registry` claims the study,
`orthanc` stores and verifies), `archive` puts it under processed/ or failed/. `reconcile` carries edits and
deletions made in Orthanc to the registry.
"""
