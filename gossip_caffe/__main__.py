"""``python -m gossip_caffe`` runs the ``gossip-caffe`` command."""

from gossip_caffe.begin import (
    collect_rarely,
    ended_at_once,
    libraries_choose_for_themselves,
    warnings_stay_warnings,
    working_folder_last,
)

if __name__ == "__main__":
    working_folder_last()
    warnings_stay_warnings()
    libraries_choose_for_themselves()
    collect_rarely()
    from gossip_caffe.cli.main import main

    ended_at_once(main)
