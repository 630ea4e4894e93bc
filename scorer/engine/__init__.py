"""The scoring loop: batches made ahead, packing, execution on a device."""
