#!/bin/sh
# The three stages of CIFAR-10 quick: each goes on from the .solverstate of the one before, with a lower learning rate.
# Run it from the root of the checkout; PEERS=4 takes four peers.
set -e
here=examples/cifar10
iterations() { sed -n 's/^max_iter: //p' "$here/quick_solver$1.prototxt"; }
from=
for stage in "" _lr1 _lr2; do
	gossip-caffe train --solver "$here/quick_solver$stage.prototxt" ${from:+--snapshot "$from"} \
		--peers "${PEERS:-2}" --log "$here/quick$stage.log"
	from="$here/quick_iter_$(iterations "$stage").solverstate"
done
python "$(dirname "$here")/draw.py" --to "$here/picture.png" --title "CIFAR-10 quick in three stages, ${PEERS:-2} peers" \
	"$here/quick.log,$here/quick_lr1.log,$here/quick_lr2.log"
