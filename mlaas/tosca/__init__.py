"""The orchestrated deployment: TOSCA templates and dashboard forms, rendered from one table and checked for all their consumers."""
