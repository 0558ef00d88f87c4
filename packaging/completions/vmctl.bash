# Completion for bash: the words come from vmctl's own table of verbs, so they are those of the installed version.
eval "$(vmctl completion bash)"
