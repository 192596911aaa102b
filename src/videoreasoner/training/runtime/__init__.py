"""What every training run needs: setup, folder, checkpoints, callbacks."""
