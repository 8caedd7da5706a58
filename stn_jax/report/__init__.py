"""Pictures and pages of trained networks: figures, galleries, charts, the HTML report."""
