# Commands side by side; sourced by bash.
#
#   job TITLE COMMAND [argument...]    starts it, as soon as fewer than JOBS run (default: one for each CPU)
#   wait_for_jobs                      prints what each wrote, in the order of their start; fails if one failed
#
# COMMAND may be a function of the script, and runs in a subshell with `set -e`. What it passes to `summarize` is in
# the array `summaries` after wait_for_jobs, in the same order.

summaries=()
job_titles=() job_pids=()
job_folder=
job_summary= # of the job that this subshell is

summarize() { # <line...>
  if [ -n "$job_summary" ]; then printf '%s\n' "$@" >>"$job_summary"; else summaries+=("$@"); fi
}

job() { # <title> <command> [argument...]
  local title=$1 log
  shift
  while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-$(nproc)}" ]; do wait -n || true; done
  job_folder=${job_folder:-$(mktemp -d)}
  log="$job_folder/${#job_pids[@]}"
  printf 'started: %s (%d s)\n' "$title" "$SECONDS"
  (
    started=$SECONDS
    trap 'status=$?; echo "$((SECONDS - started))" >"$log.seconds"; exit "$status"' EXIT
    job_summary=$log.summary job_folder='' job_pids=() job_titles=()
    set -e
    "$@"
  ) >"$log.log" 2>&1 </dev/null &
  job_titles+=("$title")
  job_pids+=("$!")
}

wait_for_jobs() {
  local i status failed=() lines
  for i in "${!job_pids[@]}"; do
    status=0
    wait "${job_pids[$i]}" || status=$?
    printf '\n--- %s (took %s s)\n' "${job_titles[$i]}" "$(cat "$job_folder/$i.seconds")"
    cat "$job_folder/$i.log"
    if [ -f "$job_folder/$i.summary" ]; then
      mapfile -t lines <"$job_folder/$i.summary"
      summarize "${lines[@]}"
    fi
    [ "$status" -eq 0 ] || failed+=("${job_titles[$i]} (exit status $status)")
  done
  [ -z "$job_folder" ] || rm -rf "$job_folder"
  job_titles=() job_pids=() job_folder=
  [ "${#failed[@]}" -eq 0 ] && return
  printf '\nfailed: %s\n' "${failed[@]}" >&2
  return 1
}
