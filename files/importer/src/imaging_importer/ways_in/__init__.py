"""The ways in which a delivery comes.

folders: finds folders in the inbox, waits until they are complete, and takes them
watch: tells of changes in the inbox
uploads: receives uploads (STOW-RS), and takes them
body: reads the body of an upload
stow: what an upload is answered
tickets: who waits for the end of a delivery
"""
