"""One HTML page about runs, for any task (docs/report.md).

`views` reads what there is of a run, `charts` draws its records, `pictures` embeds its images,
`render` fills in page.html. Nothing of a page is loaded from elsewhere.
"""
