"""Stand-ins for the programs that compute: they keep to the protocol of a job, and import no library that computes."""
