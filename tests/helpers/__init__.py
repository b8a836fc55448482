"""What several tests share: small models and runs, videos, stand-ins."""
