"""The benchmark: real processes, real disks, the durable default, and every figure with the runs it is the median of.

    figures   pure: percentiles, medians, ratios      report    pure: the JSON, the table and the drawing of it
    meters    what the system knows of processes      ensemble  the nodes that are measured, started by the command line itself
    load      producers and consumers that keep time  cases     what is measured, one function a case
    suite     which cases, how often, within limits   peers     the same from other systems, by scripts of this project

It is a user of the command line and of the client like any other: it starts its nodes with `zablog cluster up`, and reaches into
nothing. Nothing here may be imported by a server or a client.
"""
