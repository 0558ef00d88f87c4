# Completion for fish: the words come from vmctl's own table of verbs, so they are those of the installed version.
vmctl completion fish | source
