"""The house on one machine: what `saga up` is made of.

`processes`, `locks` and `logs` are the tools; `server`, `postgres` and `valkey` the embedded servers; `bell`,
`program` and `supervisor` keep parts alive; `directory` and `credentials` are what stays on disk; `checks` is what is
looked at first and `welcome` what is said at last; `up` puts them together.
"""
