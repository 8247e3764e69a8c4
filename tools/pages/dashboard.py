"""The table of the dashboard's panels."""


def dashboard_table() -> str:
    """One row per panel, from the list that the workspace is built from."""
    from trainer.tracking.dashboard.panels import SECTIONS

    lines = ["| section | panel | shows |", "|---|---|---|"]
    for section in SECTIONS:
        for panel in section.panels:
            metrics = ", ".join(f"`{metric}`" for metric in panel.metrics)
            lines.append(f"| {section.title} | {panel.title} | {metrics or panel.kind} |")
    return "\n".join([*lines, ""])
