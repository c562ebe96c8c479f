"""SoundNet: a net that hears, taught by nets that see (Aytar et al., NIPS 2016)."""
