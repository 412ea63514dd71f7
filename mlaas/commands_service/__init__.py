"""The commands that talk to a service, and those that run one."""
