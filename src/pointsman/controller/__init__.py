"""The controller: the single writer of desired state.

Read in this order: ``service`` (connections and who may say what), ``controller`` (the shell: command -> desired ->
store -> plan -> actions), ``desired`` and ``reconcile`` (pure), ``resources`` (pure), ``store`` (SQLite).
"""
