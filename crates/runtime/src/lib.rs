//! Passes, kernel choice, memory planning, threads: a graph compiled into a plan and run.
