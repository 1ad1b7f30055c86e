"""The process, its workdir, and its devices."""
