"""From a grid to submitted runs. In the order of a sweep's life:

`grid_file` and `selection` read, `grid` expands and `grid_check` refuses; `planned_run` is what comes of it. `launcher`
is the command, `dry_run` what it would do and `plan_cost` what that would cost. `opening` copies the code (`snapshot`)
and notes it all (`launch_record`). `sweep` is the loop over `sweep_state`, with `submitter` and `losses`; `following`
tells how it goes, `detached` goes on without a shell, `torchrun` with several processes. `attempt` is what runs in a
job; `ledger` is what all of them know of a run. `status`, `logs`, `cancel` and `retry` look after a sweep from any
shell.
"""
