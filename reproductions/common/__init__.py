"""What every reproduction needs: configuration, stages, statistics, tables, figures."""
