"""Parts of the composition root that several entries share: settings to objects, adapters named."""
