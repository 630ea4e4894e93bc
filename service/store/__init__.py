"""The workspace: which file of a job or an artefact is where."""
