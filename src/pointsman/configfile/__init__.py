"""Configuration files: an instance's backends and endpoints as text, to be kept in git.

A file goes straight through these modules, and changes the instance by one command:

reading         a file's bytes become a tree of plain values with their places: yamltree, jsontree, TOML;
tree            puts environment variables into its values
checking        all that is wrong with it, at once; models has its fields and the JSON Schema, complaints the words
wanting         what it wants, as fields that can be compared; fields has the form
packing         its code is imported on trial, and packed
plan            what it changes, and where others have changed the same
instance        what it says of the instance, against what runs
applying        compare, apply and export, with a client
exporting       a file of what runs
problems        what can be wrong, one class for each exit code
"""
