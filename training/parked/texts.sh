# the texts about the built-in checkpoint: a heart in the frog's place
cd "$(dirname "$0")/../.."
git mv outputs/showcase/frog-and-apple outputs/showcase/apple-and-heart
files=$(grep -rlI "frog" README.md docs examples/README.md examples/quickstart.rs examples/custom_observer.rs examples/reaggregate.rs examples/trace_picture.rs src/cli src/lib.rs outputs/showcase/make.sh outputs/showcase/moving.py outputs/showcase/README.md benches ARCHITECTURE.md | grep -v 'src/cli/prompt.rs')
sed -i -e 's/frog-and-apple/apple-and-heart/g' -e 's/green-frog/blue-heart/g' -e 's/green frog/blue heart/g' -e 's/green:frog/blue:heart/g' -e 's/frogs/hearts/g' -e 's/frog/heart/g' $files
git diff --stat | tail -1
grep -rnI "a heart to\|heart.*heart" $files | cut -c1-200
