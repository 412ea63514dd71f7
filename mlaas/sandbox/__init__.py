"""What Linux offers a process that shuts itself in for good: Landlock, a filter of system calls, mounts of its own, fewer rights.

Only the means are here. What may be reached is said by those who use them: `mlaas.jobs.runners` for jobs, `mlaas.inference` for models of users.
"""
