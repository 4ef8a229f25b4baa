"""Keys of an installation: certificates, credentials of identities, and what the bus's server is configured with."""
