"""The programs and libraries by which people and training systems use Slipway."""
