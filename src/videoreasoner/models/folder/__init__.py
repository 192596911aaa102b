"""The files of a model folder, checked before a library reads them: whoever made the folder need not be trusted."""
