"""What every part shares: contracts, settings, errors, metrics, the clock, the embedded servers, the CLI."""
