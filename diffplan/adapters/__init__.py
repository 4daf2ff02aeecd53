"""diffplan in other people's loops; each module needs the package it is named after."""
