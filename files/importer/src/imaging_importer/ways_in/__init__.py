"""The ways in which a delivery comes.

folders: finds folders in the inbox, waits until they are complete, and takes them
watch: reports changes in the inbox
uploads: receives uploads (STOW-RS), and takes them
body: reads the body of an upload
stow: the answer to an upload
tickets: the callers that wait for the end of a delivery
"""
