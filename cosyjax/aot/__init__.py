"""Programs for pods, compiled and judged without one."""
