"""Keys of an installation: certificates, credentials of identities, and the configuration of the bus's server."""
