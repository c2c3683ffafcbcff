"""The one door in: carries delivered DICOM folders into Orthanc.

The way of a delivery, down the modules: `inbox` finds a folder and waits until it is stable, `spool` claims it by
rename, `journal` remembers it, `worker` says whose turn it is, `delivery` carries it (`snapshot` copies a file,
`containers` unpacks one, `dress` tells what it is, `instance` reads it, `stamp` marks it, `registry` claims the
study, `orthanc` stores it and says what it read, `quarantine` finds out which file it died of), `archive` puts it
under processed/ or failed/. `reconcile` carries edits and deletions made in Orthanc to the registry.
"""
